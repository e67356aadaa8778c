"""Airflow's side: DAGs, operators, triggers. Nothing else imports Airflow."""
