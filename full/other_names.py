"""What other trainers (TRL, verl, transformers, accelerate) call an option, and what there is here instead.

An answer is the name of an option, or a sentence about what does not exist.
"""

_SAMPLING = "sampled is softmax(logits / temperature) and nothing else, since that is what is scored and trained"
_KL = (
    "there is no KL term (as with TRL's beta 0). tau_anc is no substitute: it is the temperature of the anchored softmax, not "
    "the coefficient of a penalty"
)
_BATCH = (
    "sizes are those of all processes together: prompts_per_batch prompts x group_size completions are sampled, "
    "mini_batch_prompts make an optimiser step, and micro_batch_tokens decides what is computed at once"
)
_PRECISION = (
    "on a GPU it computes in bfloat16 (float16 on one that has no bfloat16; a word of accelerate launch decides), with "
    "weights and optimiser in float32; on a CPU all is float32 (see weights)"
)
_LORA = "adapters are on all linear layers, with alpha twice lora_rank and no dropout; only lora_rank is an option"
_HUB = "the hub's own client keeps the token (hf auth login); push_to_hub names the repository"
_WHEN = "save_every and eval_every count optimiser steps; 0 is at the ends only"
_ADAM = "the optimiser is AdamW with beta1 0.9 and epsilon 1e-8; lr, adam_beta2 and weight_decay are options"
_LAUNCH = "it is a word of accelerate launch: write it before full/train.py, e.g. --config_file FILE --num_processes N"
_DEVICE = "accelerate takes the GPUs that it sees, else the CPU; CUDA_VISIBLE_DEVICES chooses among them"
_EPOCHS = "the length of a run is steps, in optimiser steps (epochs are passes over one batch of samples)"
_SPLITS = "a source without splits is divided by a hash of the problem: one in ten is held out and evaluated"
_REFERENCE = "no reference model is loaded: the anchor is the policy that sampled the batch"
_VLLM = "vLLM runs in the trainer's own process (engine vllm), with 0.3 of the GPU's memory"
_QUANTIZED = "weights are not quantised; lora_rank and gradient_checkpointing save memory"
_PACKED = "the rows of an update are packed without padding where the model allows it, up to micro_batch_tokens"

ANSWERS = {
    # The run
    "run_name": "name", "experiment_name": "name", "output": "output_dir", "save_dir": "output_dir",
    "default_local_dir": "output_dir", "overwrite_output_dir": "overwrite", "report_to": "tracker", "logger": "tracker",
    "data_seed": "seed", "resume_from_checkpoint": "resume", "resume_from": "resume",
    "resume_mode": "a run goes on only when asked: --resume DIR", "config_path": "config", "config_name": "config",
    "hub_model_id": "push_to_hub", "hub_token": _HUB, "wandb_project": "project", "project_name": "project",
    "callbacks": "callback",
    "logging_steps": "every optimiser step is logged", "logging_dir": "metrics are in the run's folder; see tracker",
    "logging_first_step": "every optimiser step is logged", "do_train": "full/train.py trains and evaluates",
    "do_eval": "full/train.py trains and evaluates; full/eval.py evaluates alone",
    # The model
    "model_name_or_path": "model", "model_name": "model", "model_path": "model", "enable_thinking": "thinking",
    "chat_template_kwargs": "of the chat template's switches only thinking is an option",
    "use_peft": "adapters are trained with lora_rank above 0, e.g. 16", "lora_r": "lora_rank", "lora_alpha": _LORA,
    "lora_dropout": _LORA, "lora_target_modules": _LORA, "target_modules": _LORA,
    "bf16": _PRECISION, "fp16": _PRECISION, "dtype": _PRECISION, "torch_dtype": _PRECISION,
    "load_in_4bit": _QUANTIZED, "load_in_8bit": _QUANTIZED,
    "attn_implementation": "attention is torch's scaled_dot_product_attention (sdpa)",
    "gradient_checkpointing_kwargs": "gradient_checkpointing true needs no further setting",
    "enable_gradient_checkpointing": "gradient_checkpointing",
    "disable_dropout": "dropout is always off, so that the policy that is scored is the one that sampled",
    "torch_compile": "nothing is compiled", "use_liger_kernel": "the LM head is computed in pieces already",
    "ref_model": _REFERENCE, "sync_ref_model": _REFERENCE, "ref_model_mixup_alpha": _REFERENCE,
    # The data
    "dataset": "data", "dataset_name": "data", "train_file": "data", "train_files": "data", "train_data": "data",
    "dataset_config": "a hub id's default configuration is read; give a local file for another",
    "dataset_train_split": _SPLITS, "dataset_test_split": _SPLITS, "val_files": _SPLITS, "validation_file": _SPLITS,
    "shuffle_dataset": "problems always come in an order of their own, from seed",
    "remove_unused_columns": "all columns of a problem reach the reward functions",
    "dataloader_num_workers": "there is no data loader: prompts are tokenised once, before the first step",
    "max_prompt_length": "max_prompt_tokens",
    "max_length": "the limits are max_prompt_tokens and max_completion_tokens",
    "max_seq_length": "the limits are max_prompt_tokens and max_completion_tokens",
    # Sampling
    "num_generations": "group_size", "n": "group_size", "rollout_n": "group_size", "num_samples": "group_size",
    "max_completion_length": "max_completion_tokens", "max_new_tokens": "max_completion_tokens",
    "max_response_length": "max_completion_tokens", "max_tokens": "max_completion_tokens",
    "top_p": _SAMPLING, "top_k": _SAMPLING, "min_p": _SAMPLING, "repetition_penalty": _SAMPLING,
    "presence_penalty": _SAMPLING, "frequency_penalty": _SAMPLING, "generation_kwargs": _SAMPLING,
    "mask_truncated_completions": "truncated", "use_vllm": "vLLM samples with engine vllm", "vllm_mode": _VLLM,
    "vllm_gpu_memory_utilization": _VLLM, "gpu_memory_utilization": _VLLM, "vllm_server_host": _VLLM,
    "vllm_importance_sampling_cap": "importance_cap", "vllm_importance_sampling_correction": "importance_cap",
    "tensor_model_parallel_size": "each process samples with an engine of its own",
    # Batches
    "train_batch_size": "prompts_per_batch", "batch_size": _BATCH, "per_device_train_batch_size": _BATCH,
    "gradient_accumulation_steps": _BATCH, "generation_batch_size": _BATCH, "steps_per_generation": _BATCH,
    "ppo_mini_batch_size": "mini_batch_prompts", "mini_batch_size": "mini_batch_prompts",
    "ppo_micro_batch_size": "micro_batch_tokens", "ppo_micro_batch_size_per_gpu": "micro_batch_tokens",
    "ppo_max_token_len_per_gpu": "micro_batch_tokens", "micro_batch_size": "micro_batch_tokens",
    "per_device_eval_batch_size": "generation_rows", "val_batch_size": "generation_rows",
    "num_iterations": "epochs", "ppo_epochs": "epochs", "packing": _PACKED, "padding_free": _PACKED,
    "use_remove_padding": _PACKED, "use_dynamic_bsz": _PACKED,
    # Rewards
    "reward_funcs": "reward", "reward_function": "reward", "reward_fn": "reward",
    "custom_reward_function": "reward", "reward_model": "there is no reward model; a reward is a function, module:function",
    "reward_model_path": "there is no reward model; a reward is a function, module:function",
    # The objective
    "loss_type": "objective", "adv_estimator": "objective", "algorithm": "objective", "loss_mode": "objective",
    "beta": _KL, "kl_coef": _KL, "kl_loss_coef": _KL, "use_kl_loss": _KL, "init_kl_coef": _KL, "kl_penalty": _KL,
    "use_kl_in_reward": _KL, "entropy_coef": "there is no entropy bonus", "entropy_coeff": "there is no entropy bonus",
    "epsilon_low": "epsilon", "clip_ratio": "epsilon", "clip_ratio_low": "epsilon", "clip_range": "epsilon",
    "cliprange": "epsilon", "clip_ratio_high": "epsilon_high", "scale_rewards": "advantage_scale",
    "norm_adv_by_std_in_grpo": "advantage_scale",
    "importance_sampling_level": "each objective has its own level: a ratio per token, or per completion in gspo",
    "delta": "ratios are clipped by epsilon and epsilon_high alone", "clip_ratio_c": "there is no dual clip",
    "gamma": "rewards are of whole completions; nothing is discounted",
    "lam": "there is no critic; a completion is compared with its group", "critic": "there is no critic",
    # The optimiser
    "learning_rate": "lr", "max_steps": "steps", "total_training_steps": "steps", "num_steps": "steps",
    "num_train_epochs": _EPOCHS, "total_epochs": _EPOCHS, "num_epochs": _EPOCHS,
    "lr_scheduler_type": "lr_schedule", "lr_scheduler": "lr_schedule", "lr_warmup_steps": "warmup_steps",
    "num_warmup_steps": "warmup_steps", "warmup_ratio": "the warm-up is warmup_steps, in optimiser steps",
    "lr_warmup_steps_ratio": "the warm-up is warmup_steps, in optimiser steps",
    "optim": _ADAM, "optimizer": _ADAM, "adam_beta1": _ADAM, "adam_epsilon": _ADAM,
    "grad_clip": "max_grad_norm", "clip_grad": "max_grad_norm", "max_norm": "max_grad_norm",
    # Evaluation and files
    "eval_steps": "eval_every", "test_freq": "eval_every", "save_steps": "save_every", "save_freq": "save_every",
    "eval_strategy": _WHEN, "evaluation_strategy": _WHEN, "save_strategy": _WHEN, "val_before_train": _WHEN,
    "eval_on_start": _WHEN, "save_total_limit": "keep_checkpoints", "max_actor_ckpt_to_keep": "keep_checkpoints",
    "num_generations_eval": "eval_samples", "num_completions_to_print": "log_completions",
    "load_best_model_at_end": "the last model is written; checkpoints hold earlier ones",
    # Processes and devices
    "num_processes": _LAUNCH, "num_machines": _LAUNCH, "config_file": _LAUNCH, "mixed_precision": _LAUNCH,
    "multi_gpu": _LAUNCH, "main_process_port": _LAUNCH, "deepspeed": _LAUNCH, "fsdp": _LAUNCH, "fsdp_config": _LAUNCH,
    "n_gpus_per_node": _LAUNCH, "nnodes": _LAUNCH, "nproc_per_node": _LAUNCH,
    "device": _DEVICE, "device_map": _DEVICE, "gpu": _DEVICE, "gpus": _DEVICE, "cuda": _DEVICE, "use_cpu": _DEVICE,
    "no_cuda": _DEVICE, "cpu": _DEVICE,
}  # fmt: skip


def answer(name: str, known: set[str]) -> str:
    """What to say of another trainer's option, to follow its name in a sentence; "" where the name says nothing to us.

    Args:
        name: as in the other trainer; of a dotted one (verl's) the last part counts.
        known: our options.
    """
    last = name.rpartition(".")[2]
    found = ANSWERS.get(name) or ANSWERS.get(last) or (last if last in known - {name} else "")
    if not found:
        return ""
    return f"is called {found} here" if found in known else f"is no option here: {found}"
