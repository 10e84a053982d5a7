"""Generated from proto/baton/v1 by tools/generate_proto.py."""
