"""Where models are served: the fleet file, the adapters to each backend's tensors, transports, health."""
