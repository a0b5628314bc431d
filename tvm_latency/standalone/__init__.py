"""The compiled network as plain C, without TVM's runtime."""
