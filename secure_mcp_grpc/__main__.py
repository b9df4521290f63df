from secure_mcp_grpc.cli import main

main()
