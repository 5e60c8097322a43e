"""Ways of saying what a feature stands for, interchangeable, and one score by which to compare them.

- `sae.labellers.detection`: what a labeller is given, and its score
- `sae.labellers.masks`: from the truth, where it is known
- `sae.labellers.prompts`: from the words of prompts; no model
- `sae.labellers.clip`: from the similarity of pictures and texts, by a CLIP model that the caller loads
- `sae.labellers.vlm`: from a vision-language model behind an OpenAI-compatible endpoint; the only one that sends
  anything anywhere
- `sae.labellers.user`: what a user says, which goes before all of them
"""
