"""OpenVINO: everything that knows its intermediate representation."""
