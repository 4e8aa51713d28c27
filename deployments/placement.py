"""Which nodes of a Ray cluster a role may use.

Promises: a node labelled `drafthouse/role: ROLE` takes replicas of that role alone, and a node
without the label takes any. So one configuration serves a laptop, where no node is labelled, and a
cluster with a group of nodes per role.
"""

ROLE_LABEL = "drafthouse/role"

ROLES = ("gateway", "verifier", "drafter", "controller")

HEAD = "head"
"""The value of the label on a node that takes no replicas."""


def label_selector(role: str) -> dict[str, str]:
    """Ray's label selector for replicas and their bundles. A negation, since Ray's `!in` holds where the label is missing."""
    others = [other for other in (HEAD, *ROLES) if other != role]
    return {ROLE_LABEL: f"!in({','.join(others)})"}
