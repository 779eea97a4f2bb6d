"""The pages: a FastAPI application that reads the tables without a JVM, alone or below an Airflow's URL."""
