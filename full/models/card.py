"""The model card of a finished run: model/README.md says what was trained, from what, how it was evaluated, how to load it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData


def write_card(
    folder: Path, options: Mapping[str, Any], provenance: Mapping[str, Any], summary: Mapping[str, Any]
) -> Path:
    """Write README.md into the model's folder, with the metadata that the hub reads; return its path.

    Args:
        folder: of the model.
        options: of the run, as in config.yaml.
        provenance: what config.yaml records beside them: sources of the data, versions.
        summary: of the run, as in summary.json.
    """
    before, after = summary["eval_before"], summary["eval_after"]
    metrics = [name for name in after if f"{name}_ci" in after and name in before]
    embedded = not is_hub_id(options["model"])
    data = ModelCardData(
        model_name=folder.resolve().parent.name,
        base_model=None if embedded else options["model"],
        library_name="peft" if (folder / "adapter_config.json").exists() else "transformers",
        pipeline_tag="text-generation",
        tags=["apo_edu", "reinforcement-learning", options["objective"]],
        datasets=[options["data"]] if is_hub_id(options["data"]) else None,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=options["data"],
                dataset_name=str(provenance.get("test", options["data"])),
                metric_type=name,
                metric_value=after[name],
            )
            for name in metrics
        ],
    )
    rows = [
        f"| {name} | {before[name]:.3f} | {after[name]:.3f} | {after[f'{name}_ci'][0]:.3f} to {after[f'{name}_ci'][1]:.3f} |"
        for name in metrics
    ]
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# {data.model_name}",
        f"`{options['model']}`, trained with {options['objective']} ({how(options)}) for {summary['steps']} optimiser steps by "
        "[apo_edu](https://arxiv.org/abs/2512.22953), an educational toolkit for alpha-divergence preference optimisation.",
        "## Evaluation",
        f"On {after['n']} held-out problems, {after['k']} samples each at temperature {options['temperature']:g} and "
        f"at most {options['max_completion_tokens']:,} tokens. {provenance.get('test', '')}",
        "\n".join(["| | before | after | 95 % interval over problems |", "| --- | --- | --- | --- |", *rows]),
        "The interval says nothing about other training seeds. What pass@1 gains beyond greedy is sharpening.",
        "## Training",
        f"Data: {provenance.get('train', options['data'])}. Groups of {options['group_size']}, "
        f"{options['prompts_per_batch']} prompts a batch of samples, learning rate {options['lr']:g}, seed {options['seed']}, "
        f"reward {' + '.join(options['reward'])}. All options are in the run's config.yaml.",
        "## Loading",
        loading(folder, options),
    ]
    path = folder / "README.md"
    ModelCard("\n\n".join(lines) + "\n").save(path)
    return path


def how(options: Mapping[str, Any]) -> str:
    """The schedule, where the objective reads alpha."""
    from apo_edu.objectives import find_objective

    reads = find_objective(options["objective"], strict=False).reads_alpha
    return f"schedule of alpha: {options['schedule']}" if reads else "alpha has no part in it"


def loading(folder: Path, options: Mapping[str, Any]) -> str:
    """A code block that loads the model."""
    name = folder.resolve().parent.name
    kind = "AutoPeftModelForCausalLM" if (folder / "adapter_config.json").exists() else "AutoModelForCausalLM"
    package = "peft" if kind.startswith("AutoPeft") else "transformers"
    return (
        f"```python\nfrom {package} import {kind}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {kind}.from_pretrained("{name}/model")\ntokenizer = AutoTokenizer.from_pretrained("{name}/model")\n```'
    )


def is_hub_id(name: str) -> bool:
    """Whether a name is one of the hub's, OWNER/NAME, and no folder or file here."""
    return name.count("/") == 1 and not Path(name).exists() and not name.startswith((".", "~", "/"))
