"""The hourly watch: what was left behind, what is late, and what people could not be told. Unpause it once.

It needs a pool of its own, `watch`, with one slot.
"""

from airflow.sdk import get_parsing_context

from featurise.airflow import watch

if get_parsing_context().dag_id in (None, watch.DAG_ID):
    watch.build()
