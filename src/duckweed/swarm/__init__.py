"""Who talks to whom: identity, transport, coordinator, peer."""
