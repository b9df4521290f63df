"""The Streamlit script: navigation, the controls that all pages share, and the page that was asked for."""

from pathlib import Path

import streamlit as st

from dashboard.views import controls, overview, security, traffic

st.set_page_config(page_title="Secure MCP-gRPC", page_icon=str(Path(__file__).with_name("shield.svg")), layout="wide")
chosen = st.navigation(
    [
        st.Page(overview.page, title="Overview", icon=":material/monitoring:", url_path="overview", default=True),
        st.Page(traffic.page, title="Traffic flow", icon=":material/account_tree:", url_path="traffic"),
        st.Page(security.page, title="Security", icon=":material/shield:", url_path="security"),
    ]
)
controls.draw()
chosen.run()
