"""The graph: what depends on what, and the key of everything that is made.

Nodes are named as the spec names them: `base.NAME`, `source.NAME`, `fetch.NAME`, `step.ID`, `pack.ID`,
`measure.ID`, and `file.PATH` for a file beside the spec. A node's *key* is the SHA-256 of the canonical JSON
of its *key parts*: everything that can change its output, and nothing else. A key has the content of the
inputs, not where they came from: a step whose inputs come out the same as last time does not run again.

Example:
    >>> from pipeline.spec import Base, Project, Spec, Step
    >>> spec = Spec(schema="rvp/spec/v1", project=Project(name="x", version="1"), base={"t": Base(image="i")},
    ...             step=(Step(id="b", base="t", needs=("step.a",), run=("b",), outputs=("b",)),
    ...                   Step(id="a", base="t", run=("a",), outputs=("a",))))
    >>> graph = build_graph(spec)
    >>> [node.name for node in in_order(graph)]
    ['base.t', 'step.a', 'step.b']
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from pipeline.sandbox import Rootfs, SandboxLimits
from pipeline.spec import Limits, Measure, Pack, Spec, Step, parse_reference, seconds, size_bytes
from pipeline.spec_references import dependencies
from pipeline.tree import Tree
from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.errors import UsageError

if TYPE_CHECKING:
    import networkx as nx

    Graph = nx.DiGraph[str]

# What a key means. It grows when the parts of a key change, or when the sandbox's fixed environment does.
KEY_VERSION: Final = 1

Kind = Literal["base", "source", "fetch", "file", "step", "pack", "measure"]
_KINDS: Final = ("base", "source", "fetch", "file", "step", "pack", "measure")
LEAVES: Final = frozenset({"base", "source", "fetch", "file"})


class UnknownStep(UsageError):
    """The command line names a step that the spec does not have.

    Cure: `rvp plan` lists the names.
    """

    code = "RVP-2203"


class Link(msgspec.Struct, frozen=True):
    """What a node takes from another: the whole of it, or one path.

    Attributes:
        text: as the spec writes it; the placeholder of a step's argv.
        node: the other node.
        path: of a file or folder in it; empty for the whole.
    """

    text: str
    node: str
    path: str = ""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node.

    Attributes:
        name: `step.enclave`.
        kind: the part before the dot.
        links: what it takes, in the order of the spec.
        item: what the spec says about it; None for what the lock pins.
    """

    name: str
    kind: Kind
    links: tuple[Link, ...] = ()
    item: Step | Pack | Measure | None = None


class Leaves(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock pins, resolved: root filesystems and trees by node name.

    A name that is absent was not made yet (a base that nobody unpacked); a plan says so, a build needs it.
    """

    rootfs: dict[str, Rootfs] = {}
    trees: dict[str, Tree] = {}
    epoch: int = 0

    def digest(self, name: str) -> bytes | None:
        """Return the digest of a leaf."""
        if name in self.rootfs:
            return self.rootfs[name].digest
        return self.trees[name].digest if name in self.trees else None


def parse_link(text: str) -> Link:
    """Read a reference: `step.enclave:enclave.so`, `source.app`, or a file beside the spec."""
    reference = parse_reference(text)
    if reference.kind == "file":
        return Link(text, f"file.{reference.path}")
    return Link(text, reference.node, reference.path)


def build_graph(spec: Spec) -> Graph:
    """Build the graph of a checked spec; each node has its `Node` under the attribute `node`.

    What the parts of a spec refer to is there, and leads in no circle: `spec_check` saw to it.

    Cost: linear in nodes and links.
    """
    import networkx as nx

    nodes: dict[str, Node] = {}
    for kind, names in (("base", spec.base), ("source", spec.source), ("fetch", spec.fetch)):
        for name in names:
            nodes[f"{kind}.{name}"] = Node(name=f"{kind}.{name}", kind=kind)  # type: ignore[arg-type]  # literal
    items: tuple[Step | Pack | Measure, ...] = (*spec.step, *spec.pack, *spec.measure)
    for item in items:
        node = _node_of(item)
        nodes[node.name] = node
    links = [(link.node, node.name) for node in nodes.values() for link in node.links]
    for name, _ in links:
        if name.startswith("file."):
            nodes.setdefault(name, Node(name=name, kind="file"))
    graph: Graph = nx.DiGraph()
    graph.add_nodes_from((name, {"node": node}) for name, node in nodes.items())
    graph.add_edges_from(links)
    for name, needed in dependencies(spec).items():  # those of fetches, which have no item, are here alone
        graph.add_edges_from((need, name) for need in needed)
    return graph


def _node_of(item: Step | Pack | Measure) -> Node:
    match item:
        case Step():
            references = (f"base.{item.base}", *item.needs)
            name, kind = f"step.{item.id}", "step"
        case Pack():
            references = (item.image, item.config, item.sigstruct, *item.files.values(), item.base)
            name, kind = f"pack.{item.id}", "pack"
        case Measure():
            references = (
                item.image,
                item.sigstruct,
                item.config,
                item.libpal,
                item.firmware,
                item.kernel,
                item.initrd,
                item.id_block,
                item.id_auth,
            )
            name, kind = f"measure.{item.id}", "measure"
    links = {text: parse_link(text) for text in references if text}
    return Node(name=name, kind=kind, links=tuple(links.values()), item=item)  # type: ignore[arg-type]  # literal


def in_order(graph: Graph) -> tuple[Node, ...]:
    """Return all nodes, each after what it needs, otherwise in the order of the spec: the graph order."""
    import networkx as nx

    position = {name: index for index, name in enumerate(graph)}
    names = nx.lexicographical_topological_sort(graph, key=position.__getitem__)
    return tuple(graph.nodes[name]["node"] for name in names)


def select(graph: Graph, names: Iterable[str]) -> Graph:
    """Return the part of the graph that is needed for some nodes; all of it for no names.

    Args:
        graph: the graph.
        names: `step.enclave`, or `enclave` alone where it is unambiguous.

    Raises:
        UnknownStep: RVP-2203.
    """
    import networkx as nx

    wanted: set[str] = set()
    for name in names:
        kinds = (f"{kind}.{name}" for kind in _KINDS)
        found = [name] if name in graph else [full for full in kinds if full in graph]
        if len(found) != 1:
            import difflib

            near = difflib.get_close_matches(name, [*graph, *(node.partition(".")[2] for node in graph)], n=1)
            raise UnknownStep(
                f'"{name}" could be {" or ".join(found)}' if found else f'the spec has no "{name}"',
                hint=f'did you mean "{near[0]}"?' if near and not found else "`rvp plan` lists the names",
            )
        wanted.add(found[0])
        wanted.update(nx.ancestors(graph, found[0]))
    if not wanted:
        return graph
    part: Graph = nx.DiGraph()
    part.add_nodes_from((name, graph.nodes[name]) for name in graph if name in wanted)
    part.add_edges_from(edge for edge in graph.edges if edge[1] in wanted)
    return part


def sandbox_limits(limits: Limits) -> SandboxLimits:
    """Turn the spec's limits into base units."""
    return SandboxLimits(
        cpus=limits.cpus,
        memory_bytes=size_bytes(limits.memory),
        disk_bytes=size_bytes(limits.disk),
        output_bytes=size_bytes(limits.output),
        time_s=seconds(limits.time),
        pids=limits.pids,
    )


def key_parts(
    node: Node,
    inputs: Mapping[str, bytes],
    *,
    leaves: Leaves,
    vary: tuple[str, ...] = (),
    run: int = 1,
) -> dict[str, Any]:
    """Collect everything that can change what a node gives.

    Args:
        node: a step, a pack or a measure.
        inputs: the digest of what each link takes, by the link's text.
        leaves: root filesystems and the epoch.
        vary: the variations of this run; empty in the first build.
        run: 1 for the first build, 2, 3, … for rebuilds.

    Returns:
        The parts, as JSON has them; `key_of` makes the key of them.
    """
    texts = {text: digest.hex() for text, digest in inputs.items()}
    match node.item:
        case Step() as step:
            base = f"base.{step.base}"
            limits = sandbox_limits(step.limits)
            parts: dict[str, Any] = {
                "version": KEY_VERSION,
                "kind": "step",
                "base": texts.pop(base),
                "argv": list(step.run),
                "environment": dict(step.environment),
                "inputs": texts,
                "outputs": list(step.outputs),
                "epoch": leaves.epoch,
                # The limits that a command can see; the others can only make it fail.
                "limits": {"cpus": limits.cpus, "memory": limits.memory_bytes, "pids": limits.pids},
            }
            if run > 1:
                tools = leaves.rootfs[base].variation_tools if base in leaves.rootfs else Tree()
                parts["run"] = run
                parts["variations"] = list(vary)
                parts["fixed"] = sorted(set(step.fixed) & set(vary))
                parts["variation tools"] = tools.digest.hex()
            return parts
        case Pack() | Measure() as item:
            from provenance.version import version

            return {
                "version": KEY_VERSION,
                "kind": node.kind,
                "tool": version(),
                "definition": msgspec.to_builtins(item),
                "inputs": texts,
                "epoch": leaves.epoch,
            }
        case None:
            raise TypeError(f"{node.name} is pinned by the lock and has no key")


def key_of(parts: Mapping[str, Any]) -> bytes:
    """Make the key of its parts."""
    return sha256(canonical_json(parts))
