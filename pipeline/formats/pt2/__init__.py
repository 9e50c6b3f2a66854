"""The archives of torch.export: written, looked into without torch, audited."""
