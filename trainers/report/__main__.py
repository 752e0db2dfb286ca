from common.errors import run_module

if __name__ == "__main__":
    run_module("trainers.report.run")
