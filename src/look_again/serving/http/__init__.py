"""From requests to jobs, and from their events to responses."""
