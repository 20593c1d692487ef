// Uses the types that openapi-typescript made; compiled, never run.
import type { components, operations, paths } from "./made";

type Json<Answer> = Answer extends { content: { "application/json": infer Body } } ? Body : never;

const body: operations["submit_research"]["requestBody"]["content"]["application/json"] = {
  input: { question: "why?", notes: [{ text: "a", below: [] }] },
  session_id: "s",
  class: "fast",
};
// @ts-expect-error: a question is a text
body.input.question = 3;

declare const done: Json<operations["submit_research"]["responses"][200]>;
const text: string | undefined = done.result?.text;
const status: "queued" | "running" | "completed" | "failed" | "cancelled" | "expired" = done.status;
const where: paths["/v1/runs/{run_id}"]["get"]["parameters"]["path"]["run_id"] = done.id;
declare const problem: components["schemas"]["Problem"];
const pointers: string[] | undefined = problem.errors?.map((each) => each.pointer);
export { pointers, status, text, where };
