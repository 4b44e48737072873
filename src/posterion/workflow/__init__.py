"""Several commands as one resumable workflow: each step runs when what it depends on has changed."""
