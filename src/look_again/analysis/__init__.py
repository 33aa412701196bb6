"""Where a model looks: visual dilution and heat maps of finished answers, measured exactly beside the kernel."""
