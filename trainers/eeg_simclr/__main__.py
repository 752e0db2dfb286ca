from common.errors import run_main
from trainers.eeg_simclr.run import main

if __name__ == "__main__":
    run_main(main)
