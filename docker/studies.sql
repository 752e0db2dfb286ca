-- Run once, when the database is made: Optuna's studies live beside MLflow's tables, in a database of their own.
CREATE DATABASE studies;
