"""PaintBench: did a brush stroke do what it promised, measured by a network that reads pictures."""
