"""What an optimiser step goes through; full/train.py tells the story."""
