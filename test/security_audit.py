"""Compares what running nodes do with what a security policy allows."""

from xml.etree import ElementTree as xml

from nac_ros.ros.security_policy import policy_xml


def allowed(text, verb):
    """Node -> the names that a policy file allows it to `verb`."""
    found = {}
    for profile in xml.fromstring(text.encode()).iter("profile"):
        groups = [group for group in profile if group.get(verb) == "ALLOW"]
        found[profile.get("node")] = {item.text for group in groups for item in group}
    return found


def forbidden(watcher, names, spec):
    """(node, verb, name) of all that nodes do against their policy, as `watcher` sees it."""
    text = policy_xml(spec)
    queries = {
        "publish": watcher.get_publisher_names_and_types_by_node,
        "subscribe": watcher.get_subscriber_names_and_types_by_node,
        "reply": watcher.get_service_names_and_types_by_node,
        "request": watcher.get_client_names_and_types_by_node,
    }
    found = set()
    for name in names:
        for verb, query in queries.items():
            used = {topic.lstrip("/") for topic, _ in query(name, "/")}
            assert used or verb == "request", f"{name} was not discovered"
            permitted = {item.replace("~", name) for item in allowed(text, verb).get(name, ())}
            found |= {(name, verb, topic) for topic in used - permitted}
    return found
