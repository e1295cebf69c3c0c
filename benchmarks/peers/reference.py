"""The yardstick: a plain forward and backward pass over the documents, the unit in which all costs are given.

Every parameter of the model requires its gradient, the loss is summed over tokens, batches are as large as the peers'.
With `--activations-only` no weight gradient is computed (only the token embedding's, as the peers do it, so that the
backward pass runs all the way down): the least that any gradient method can cost.

Prints one JSON line: `seconds` holds wall and CPU of the passes alone (model and data already in memory, gradients
dropped after each batch), `load` the rest.
"""

from __future__ import annotations

from inputs import parser, quiet, read_ids, read_model, token_sum_loss
from measure import Stages, report


def passes(model, ids, batch_size: int) -> float:
    """Runs forward and backward over all rows and returns the mean loss in nats per predicted token."""
    total = 0.0
    for batch in ids.split(batch_size):
        loss = token_sum_loss(model(input_ids=batch).logits, batch)
        loss.backward()
        total += loss.item()
        model.zero_grad(set_to_none=True)
    return total / (len(ids) * (ids.shape[1] - 1))


def main() -> None:
    """Measures the passes and prints one line."""
    options = parser(__doc__)
    options.add_argument("--activations-only", action="store_true", help="compute no weight gradients")
    args = options.parse_args()
    quiet(args.threads)
    stages = Stages()
    with stages("load"):
        model = read_model(args.setup)
        ids = read_ids(args.setup, "documents", args.documents)
        if args.activations_only:
            model.requires_grad_(False)
            model.get_input_embeddings().requires_grad_(True)
        passes(model, ids[: args.batch_size], args.batch_size)  # warms up the allocator and the kernels
    with stages("passes"):
        loss = passes(model, ids, args.batch_size)
    report(
        {
            "name": "activations-only" if args.activations_only else "forward-backward",
            "documents": len(ids),
            "tokens": ids.numel(),
            "batch_size": args.batch_size,
            "threads": args.threads,
            "loss": loss,
            "seconds": stages.rows["passes"],
            "load": stages.rows["load"],
        }
    )


if __name__ == "__main__":
    main()
