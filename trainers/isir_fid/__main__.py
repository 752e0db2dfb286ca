from common.errors import run_main
from trainers.isir_fid.run import main

if __name__ == "__main__":
    run_main(main)
