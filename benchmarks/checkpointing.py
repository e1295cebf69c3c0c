"""Peak memory and time of reading per-example gradients' factors, with and without checkpointing.

    python benchmarks/checkpointing.py [layers] [rows] [tokens]

Each is measured in a process of its own, on one thread; factors are looked at and dropped, as the passes do.
"""

import json
import resource
import subprocess
import sys
import time


def measure(checkpointing: bool, layers: int, rows: int, tokens: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from whence.model import Capture, as_loaded, find_sites
    from whence.model.checkpointing import checkpoint_blocks

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=1024, num_hidden_layers=layers, num_attention_heads=4
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    if checkpointing:
        checkpoint_blocks(model)
    loaded = as_loaded(model)
    ids = torch.randint(0, 512, (rows, tokens))
    sites = [site for site in find_sites(loaded.model) if site.by_token and not site.experts]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()

    def losses() -> torch.Tensor:
        return model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum(1)

    Capture(loaded.model, sites).run(losses, rows, lambda site, uses: None, tokens)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"checkpointing": checkpointing, "MiB over the model": (peak - before) // 1024, "s": seconds}))


def main() -> None:
    sizes = [int(each) for each in sys.argv[1:4]] + [12, 8, 256][len(sys.argv[1:4]) :]
    for checkpointing in (False, True):
        code = f"from checkpointing import measure; measure({checkpointing}, *{sizes})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=sys.path[0])


if __name__ == "__main__":
    main()
