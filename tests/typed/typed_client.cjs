// A client of model_context_protocol.Mcp in Node.js, as README shows how to make one: all eight RPCs, one JSON object out.
// Arguments: address, directory of the identity, directory that `secure-mcp-grpc proto` wrote.
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, identity, protos] = process.argv.slice(2);
const read = (name) => fs.readFileSync(path.join(identity, name));
const definition = loader.loadSync("mcp.proto", { includeDirs: [protos], enums: String, longs: Number });
const { Mcp } = grpc.loadPackageDefinition(definition).model_context_protocol;
const client = new Mcp(address, grpc.credentials.createSsl(read("ca.crt"), read("tls.key"), read("tls.crt")));

const call = (rpc, request) =>
  new Promise((resolve) => {
    const deadline = Date.now() + 20_000;
    client[rpc](request, { deadline }, (error, response) => {
      const details = error?.metadata.get("grpc-status-details-bin").map((one) => one.toString("base64"));
      resolve(error ? { code: error.code, message: error.details, details } : response);
    });
  });

const text = (value) => ({ stringValue: value });
const object = (fields) => ({ structValue: { fields } });
const asking = (more) => ({
  metadata: {
    fields: {
      "io.modelcontextprotocol/clientInfo": object({ name: text("node"), version: text("1") }),
      "io.modelcontextprotocol/clientCapabilities": object({ elicitation: object({ form: object({}) }) }),
    },
  },
  ...more,
});
const tool = (name, common) => ({ common, request: { name, arguments: { fields: {} } } });

async function main() {
  const asks = "test_input_required_result_elicitation";
  const wanted = await call("CallTool", tool(asks, asking({})));
  const [key] = Object.keys(wanted.common?.inputRequests ?? {});
  const entered = { elicitResult: { type: "TYPE_ACCEPT", content: { fields: { name: text("Ada") } } } };
  const given = await call("CallTool", tool(asks, asking({ inputResponses: { [key]: entered } })));
  const argument = { name: "name", value: "par" };
  const answers = {
    tools: await call("ListTools", {}),
    resources: await call("ListResources", {}),
    templates: await call("ListResourceTemplates", {}),
    prompts: await call("ListPrompts", {}),
    image: await call("CallTool", tool("test_image_content", undefined)),
    read: await call("ReadResource", { uri: "test://static-text" }),
    prompt: await call("GetPrompt", { name: "test_simple_prompt" }),
    completed: await call("Complete", { promptReference: { name: "test_prompt_with_arguments" }, argument }),
    wanted,
    given,
    missing: await call("ReadResource", { uri: "test://no-such-thing" }),
    refused: await call("CallTool", tool("not_permitted", undefined)),
  };
  process.stdout.write(JSON.stringify(answers));
  client.close();
}

main();
