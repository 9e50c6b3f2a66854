"""One config from plan to release: settings, plan, stages, what each result depends on; several configs."""
