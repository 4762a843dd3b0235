"""`oprime k8s`: the manifests of a run on Kubernetes, and its secrets."""

import argparse
import tempfile
from pathlib import Path

from oprime_cli.arguments import Subparsers, add_config, command_parser
from oprime_cli.console import say


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "k8s",
        description="Make what a run needs on Kubernetes from its settings; docs/kubernetes.md tells the whole way.",
        example="oprime k8s render deploy/config/demo.toml | kubectl apply -f -",
    )
    actions = parser.add_subparsers(dest="action", metavar="{render,secrets}", required=True)
    render = command_parser(
        actions,
        "render",
        description="Print the manifests of a run: images, sizes, replicas, ranks and ports follow from its TOML, the rest from an overlay "
        "of deploy/k8s. Needs kubectl or kustomize on PATH; with --out it needs neither.",
        example="oprime k8s render run.toml --overlay large --out my-run && kubectl apply -k my-run",
    )
    add_config(render)
    render.add_argument(
        "--overlay", metavar="NAME", default="local", help="what the cluster is like: local, gpu-single or large (default: local)"
    )
    render.add_argument(
        "--out", metavar="DIR", type=Path, default=None, help="write a kustomize overlay there instead of printing manifests"
    )
    render.add_argument("--tree", metavar="DIR", type=Path, default=None, help="another folder with base, components and overlays")
    secrets = command_parser(
        actions,
        "secrets",
        description="Print new secrets for a run: a password for each of Redis' users and a key for the gateway. Each call makes others.",
        example="oprime k8s secrets deploy/config/demo.toml | kubectl create -f -",
    )
    add_config(secrets)


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.overrides import load_config

    config = load_config(Path(arguments.config), arguments.overrides)
    if arguments.action == "secrets":
        from oprime_cli.kubernetes.secrets import new_secrets

        say(new_secrets(config).rstrip("\n"))
        return 0
    from oprime_cli.kubernetes.overlays import TREE, manifests, write_overlay

    tree = arguments.tree or TREE
    if arguments.out is not None:
        write_overlay(config, arguments.overlay, arguments.out, tree=tree)
        say(f"wrote {arguments.out}; apply it with `kubectl apply -k {arguments.out}`")
        return 0
    with tempfile.TemporaryDirectory(prefix="oprime-k8s-") as folder:
        write_overlay(config, arguments.overlay, Path(folder), tree=tree)
        say(manifests(Path(folder)).rstrip("\n"))
    return 0
