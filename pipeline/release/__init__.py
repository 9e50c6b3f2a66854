"""Bundle, canonical bytes, golden cases, verification, and running a release."""
