"""What a run shows: the console, figures, the glossary, comparisons, and one offline page."""
