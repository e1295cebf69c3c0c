"""How true are the scores: retraining, measures against it, methods side by side, certificates."""
