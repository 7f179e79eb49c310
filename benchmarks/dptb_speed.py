"""µs per directed pair of DeePTB's SLEM, blocks of H and S included, to stand beside `benchmarks/inference.py`.

    OMP_NUM_THREADS=1 python benchmarks/dptb_speed.py STRUCTURE BASIS R_MAX [--repeat 2 2 2] [--turns 2]
        [--irreps 32x0e+32x1o+16x2e] [--layers 3]

Runs where dptb 2.2.1 is installed, and needs nothing of deeph-mpi. BASIS is such as {"Si":"1s1p"}; the network is that of
DeePTB's silicon example with random weights, on which its speed does not depend. Its allocator is tuned from outside:

    MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456 MALLOC_MMAP_MAX_=0 OMP_NUM_THREADS=1 python …

STRUCTURE is repeated and displaced by 0.01 Å as in `inference.py`. A turn is the network on a ready graph and the step from
features to blocks of H and S (which DeePTB makes of undirected pairs); directed pairs are counted, as there.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from ase.io import read
from dptb.data import AtomicData, AtomicDataDict
from dptb.data.interfaces.ham_to_feature import feature_to_block
from dptb.nn.build import build_model


def main() -> None:
    """Print the figure of every turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structure")
    parser.add_argument("basis", type=json.loads)
    parser.add_argument("r_max", type=float)
    parser.add_argument("--repeat", type=int, nargs=3, default=[2, 2, 2])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--irreps", default="32x0e+32x1o+16x2e")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--neighbours", type=float, default=86.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    embedding = {
        "method": "slem",
        "r_max": dict.fromkeys(arguments.basis, arguments.r_max),
        "irreps_hidden": arguments.irreps,
        "n_layers": arguments.layers,
        "avg_num_neighbors": arguments.neighbours,
        "tp_radial_emb": True,
    }
    model = build_model(
        None,
        {"embedding": embedding, "prediction": {"method": "e3tb", "neurons": [64, 64]}},
        {"basis": arguments.basis, "device": "cpu", "dtype": "float32", "overlap": True},
    )
    model.eval()
    atoms = read(arguments.structure, format="vasp")
    atoms = atoms.repeat(arguments.repeat)
    atoms.positions += np.random.default_rng(0).normal(0, 0.01, atoms.positions.shape)
    data = AtomicData.from_ase(atoms, r_max=arguments.r_max)
    graph = AtomicData.to_AtomicDataDict(data)
    directed = int(graph[AtomicDataDict.EDGE_INDEX_KEY].shape[1])
    print(
        f"{len(atoms)} atoms, {directed} directed pairs, {sum(p.numel() for p in model.parameters())} parameters",
        flush=True,
    )
    for _ in range(arguments.turns):
        with torch.no_grad():
            begin = time.perf_counter()
            found = model(model.idp(dict(graph)))
            network = time.perf_counter() - begin
            feature_to_block(found, model.idp, overlap=False)
            feature_to_block(found, model.idp, overlap=True)
            total = time.perf_counter() - begin
        print(
            f"{1e6 * total / directed:.1f} µs a directed pair, the network {1e6 * network / directed:.1f}", flush=True
        )


if __name__ == "__main__":
    main()
