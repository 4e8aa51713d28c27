"""NetworkPolicies as a packet meets them.

Promises: the rules of networking.k8s.io/v1 for pods of one namespace: a pod that a policy of a direction
selects takes only what some policy allows; ingress at the target and egress at the source must both allow.
"""

from typing import Any

Object = dict[str, Any]
Labels = dict[str, str]

FREE_PORTS = (32768, 60999)
"""From which Linux picks a port when a server asks for port 0."""


def matches(selector: Object, labels: Labels) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        value, operator = labels.get(rule["key"]), rule["operator"]
        holds = {
            "Exists": value is not None,
            "DoesNotExist": value is None,
            "In": value in rule.get("values", []),
            "NotIn": value not in rule.get("values", []),
        }[operator]
        if not holds:
            return False
    return True


def allowed(objects: list[Object], source: Labels | None, target: Labels, ports: tuple[int, int]) -> str:
    """Empty where TCP from `source` (None: from outside the cluster) to all `ports` of `target` passes, else who stops it."""
    policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
    if not _passes(policies, "Ingress", target, source, ports):
        return f"no NetworkPolicy lets {target} take it"
    if source is not None and not _passes(policies, "Egress", source, target, ports):
        return f"no NetworkPolicy lets {source} send it"
    return ""


def sends_outside(objects: list[Object], source: Labels, protocol: str, port: int) -> bool:
    """Whether `source` may reach some peer outside the namespace on `port`: names and the API server, which no policy here owns."""
    policies = [item["spec"] for item in objects if item["kind"] == "NetworkPolicy" and matches(item["spec"]["podSelector"], source)]
    rules = [rule for spec in policies for rule in spec.get("egress", [])]
    outside = [rule for rule in rules if not rule.get("to") or any("namespaceSelector" in peer or "ipBlock" in peer for peer in rule["to"])]
    return any(entry.get("protocol", "TCP") == protocol and entry["port"] == port for rule in outside for entry in rule.get("ports", []))


def _passes(policies: list[Object], direction: str, pod: Labels, peer: Labels | None, ports: tuple[int, int]) -> bool:
    mine = [item["spec"] for item in policies if direction in item["spec"]["policyTypes"] and matches(item["spec"]["podSelector"], pod)]
    if not mine:
        return True
    key, side = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    rules = [rule for spec in mine for rule in spec.get(key, [])]
    return any(_peer_matches(rule.get(side), peer) and _ports_match(rule.get("ports"), ports) for rule in rules)


def _peer_matches(peers: list[Object] | None, labels: Labels | None) -> bool:
    if not peers:
        return True
    if labels is None:
        return False
    return any("podSelector" in peer and not peer.get("namespaceSelector") and matches(peer["podSelector"], labels) for peer in peers)


def _ports_match(rules: list[Object] | None, ports: tuple[int, int]) -> bool:
    if not rules:
        return True
    first, last = ports
    return any(
        rule.get("protocol", "TCP") == "TCP" and rule["port"] <= first and last <= rule.get("endPort", rule["port"]) for rule in rules
    )
