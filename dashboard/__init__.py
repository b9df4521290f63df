"""The dashboard: a Streamlit app that shows what trace_sink stored. It reads the store and changes nothing."""
