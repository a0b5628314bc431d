"""Other runtimes to compare with: one file for each family, all behind `interface.BenchRuntime`."""
