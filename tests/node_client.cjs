// A client that knows Baton by its proto alone:  node node_client.cjs PROTO_FOLDER TARGET, packages by NODE_PATH.
// Prints, as JSON, what it saw of every method, of an error and of a call that it cancelled.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [folder, target] = process.argv.slice(2);
const options = { keepCase: true, longs: String, enums: String, defaults: false, oneofs: true, includeDirs: [folder] };
const definition = loader.loadSync("baton/v1/inference.proto", options);
const { Inference } = grpc.loadPackageDefinition(definition).baton.v1;
const client = new Inference(target, grpc.credentials.createInsecure());

const deadline = () => ({ deadline: Date.now() + 60_000 });
const metadata = () => {
  const sent = new grpc.Metadata();
  sent.set("authorization", "Bearer bt-node");
  return sent;
};

function unary(method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata(), deadline(), (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

// Every message of one stream; `cancelAfter` of them, then the call is cancelled.
function generate(request, cancelAfter = Infinity) {
  return new Promise((resolve) => {
    const messages = [];
    const call = client.Generate(request, metadata(), deadline());
    call.on("data", (message) => {
      messages.push(message);
      if (messages.length === cancelAfter) call.cancel();
    });
    call.on("error", (error) => resolve({ messages, status: grpc.status[error.code], error }));
    call.on("end", () => resolve({ messages, status: "OK" }));
  });
}

function text(answer) {
  return answer.messages.flatMap((message) => message.deltas || []).map((delta) => delta.text || "").join("");
}

async function main() {
  const sampling = { max_tokens: 8, temperature: 0, seed: "18446744073709551615", logit_bias: { 5: -1.5 } };
  const answer = await generate({ prompt: "Once upon a time", sampling });
  const last = answer.messages[answer.messages.length - 1];
  const finished = answer.messages.flatMap((message) => message.deltas || []).find((delta) => delta.finish_reason);
  const chat = await generate({ chat: { messages: [{ role: "user", content: "Hello" }] }, sampling: { max_tokens: 2 } });
  const { token_ids } = await unary("Tokenize", { text: "Once upon" });
  const refused = await generate({ prompt: "Once", sampling: { temperature: -1 } });
  const cancelled = await generate({ prompt: "Once upon a time", sampling: { max_tokens: 500 } }, 1);
  console.log(
    JSON.stringify({
      text: text(answer),
      status: answer.status,
      usage: last.usage,
      finish_reason: finished.finish_reason,
      request_ids: new Set(answer.messages.map((message) => message.request_id)).size,
      chat: chat.status,
      detokenized: (await unary("Detokenize", { token_ids })).text,
      models: (await unary("ListModels", {})).models,
      refused: {
        status: refused.status,
        details: refused.error && refused.error.details,
        field: refused.error && refused.error.metadata.get("baton-error-field")[0],
      },
      cancelled: cancelled.status,
    }),
  );
  client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
