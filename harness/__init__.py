"""The language and the conductor: records, recipes, run store, plan, executors, command line."""
