pytest_plugins = ["subpop.pytest_plugin"]
