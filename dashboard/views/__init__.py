"""Pages and what they share. Streamlit stands on one side, `queries`, `store` and `charts` on the other."""
