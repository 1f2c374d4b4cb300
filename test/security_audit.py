"""What a security policy allows, and what running nodes do beside that."""

from xml.etree import ElementTree as xml

from nac_ros.ros.security_policy import policy_xml


def allowed(text, verb):
    """Node -> names it may `verb`, of a policy file."""
    found = {}
    for profile in xml.fromstring(text.encode()).iter("profile"):
        groups = [group for group in profile if group.get(verb) == "ALLOW"]
        found[profile.get("node")] = {item.text for group in groups for item in group}
    return found


def forbidden(watcher, names, spec):
    """(node, verb, name) of what nodes do that their policy forbids, as `watcher` sees them."""
    text = policy_xml(spec)
    asked = {
        "publish": watcher.get_publisher_names_and_types_by_node,
        "subscribe": watcher.get_subscriber_names_and_types_by_node,
        "reply": watcher.get_service_names_and_types_by_node,
        "request": watcher.get_client_names_and_types_by_node,
    }
    found = set()
    for name in names:
        for verb, ask in asked.items():
            does = {topic.lstrip("/") for topic, _ in ask(name, "/")}
            assert does or verb == "request", f"{name} was not heard of"
            may = {item.replace("~", name) for item in allowed(text, verb).get(name, ())}
            found |= {(name, verb, topic) for topic in does - may}
    return found
