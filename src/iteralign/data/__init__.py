"""Public data sets and the user's own → prompts, split by subject."""

from iteralign.data.load import load_prompts, load_sets
from iteralign.data.splits import assert_disjoint, split_prompts

__all__ = ["assert_disjoint", "load_prompts", "load_sets", "split_prompts"]
