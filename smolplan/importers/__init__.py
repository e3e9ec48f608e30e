"""Run specs from what people already have: nanotron, torchtitan, Megatron-LM, Hugging Face."""
