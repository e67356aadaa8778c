"""The pages that the plugin adds to Airflow."""
