"""Each step with its state. The only place that loads and saves it; the steps themselves take plain values."""
