// The chat page: ask, watch the answer grow, stop it, see where it comes from.
//
// A turn is one question with its answer so far and the cursor `<run_id>:<seq>` of the last event that went into
// it. Text and cursor always change together, so whatever cuts us off (a lost network, a reload), the server is
// asked for what comes after the cursor and nothing is lost or shown twice. All text, from whomever, is put into
// the page as text and never as markup.

const WORDS = {
  en: {
    newConversation: "New conversation",
    welcome: "What would you like to know?",
    welcomeMore: "Answers come from the documents of this service, and each one shows its sources.",
    question: "Your question",
    placeholder: "Ask a question",
    ask: "Ask",
    stop: "Stop",
    retry: "Try again",
    signIn: "Who is asking?",
    token: "Token",
    signInDone: "Continue",
    answering: "Answering…",
    answered: "The answer is complete.",
    stopped: "Stopped here.",
    reconnecting: "Connection lost, reconnecting…",
    unreachable: "The server can’t be reached. Check the connection, then try again.",
    unsent: "The question did not get through.",
    restarted: "The earlier conversation is not available any more; a new one was begun.",
    refusals: {}, // the server's own sentences are English, and say more
    refused: (status) => `The server refused with status ${status}.`,
    sources: "Sources",
    found: "Passages found",
    source: (number) => `Source ${number}`,
    match: (percent) => `${percent}% match`,
  },
  zh: {
    newConversation: "新对话",
    welcome: "想了解什么？",
    welcomeMore: "回答出自本服务的文档，并附上来源。",
    question: "您的问题",
    placeholder: "请输入问题",
    ask: "提问",
    stop: "停止",
    retry: "重试",
    signIn: "请先验证身份",
    token: "令牌",
    signInDone: "继续",
    answering: "正在回答……",
    answered: "回答完毕。",
    stopped: "已停止。",
    reconnecting: "连接中断，正在重新连接……",
    unreachable: "无法连接服务器。请检查网络后重试。",
    unsent: "问题未能送达。",
    restarted: "之前的对话已不可用，已开始新的对话。",
    refusals: {
      401: "令牌无效、已过期或已被撤销。请输入另一个令牌。",
      413: "问题太长。请缩短后重新提问。",
    },
    refused: (status) => `服务器拒绝了请求（状态码 ${status}）。`,
    sources: "来源",
    found: "找到的段落",
    source: (number) => `来源 ${number}`,
    match: (percent) => `相似度 ${percent}%`,
  },
};
const chinese = navigator.language.toLowerCase().startsWith("zh");
const words = chinese ? WORDS.zh : WORDS.en;

const CHAT = "default";
const COMPLETION = "v1/conversation/completion";
const NEW_TURN = { text: "", passages: [], session: "", cursor: "", error: "", refused: false, stopped: false, ended: false };
const REFUSALS_FOR_GOOD = [400, 404, 413]; // the same question would be refused again
const RECONNECT_DELAYS = [500, 1000, 2000, 4000, 8000];
const LONGEST_SILENCE = 75_000; // the server sends a heartbeat at least every 60 seconds
const NEAR_THE_END = 80; // pixels from the bottom at which a reader still follows the growing answer
const CITATION = /\[ID:(?<index>\d+)\]/g;
const CODE = /`(?<code>[^`\n]+)`/g;
const CITATION_OR_CODE = new RegExp(`${CITATION.source}|${CODE.source}`, "g");
const TABLE = /^( *\|.*\n *\|[ :|-]*-[ :|-]*(?:\n *\|.*)+)/m; // only with a row, or a growing text would flicker
const CELL_BORDER = /(?<!\\)\|/;
const HEADINGS = /^(?!```|\|)(?<headings>.*[^\n.。:：])\n\n(?<text>[^]*)$/; // the first line of a passage, alone
const NO_BREAK = "\u00a0"; // before a citation, so that it stays on the line of what it proves
const HALF_A_CITATION = /\[(I(D(:\d*)?)?)?$/;

// ---- what a reload keeps ------------------------------------------------------------------------------------

const STORE = `ragchat ${location.pathname}`;
// `token` is the one that the turns were asked with; `draft` is what was typed and not sent.
const kept = { token: "", turns: [], draft: "", ...stored() };

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE));
  } catch {
    return null; // storage is forbidden: the page works, and a reload begins anew
  }
}

function keep() {
  kept.draft = question.value;
  try {
    sessionStorage.setItem(STORE, JSON.stringify(kept));
  } catch {
    // forbidden or full: as above
  }
}

/** The token of all tabs. Without local storage each tab has its own. */
function sharedToken() {
  try {
    return localStorage.getItem(STORE) ?? kept.token;
  } catch {
    return kept.token;
  }
}

/** Take over the token of all tabs. Another token may be another person's, who sees nothing of what was said. */
function renewToken(token = sharedToken()) {
  if (token === kept.token) return;
  kept.token = token;
  const last = kept.turns.at(-1);
  begin(last && !last.cursor && !last.text ? [last] : []);
}

/** Use this token from now on, in all tabs. */
function changeToken(token) {
  try {
    localStorage.setItem(STORE, token);
  } catch {
    // forbidden or full: it is this tab's alone
  }
  renewToken(token);
}

/** Take the token out of the address, where a screenshot or a bookmark would give it away. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  changeToken(token);
  history.replaceState(null, "", location.pathname + location.search);
}

// ---- the wire: docs/protocol.md, codec `ragflow` over server-sent events --------------------------------------

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // of HTTP; 0 when there was no response
  }

  /** Whether it may pass by itself. */
  get passing() {
    return [0, 429, 502, 503, 504].includes(this.status);
  }
}

/** POST to a path beside the page. Throws a Refusal unless the server agrees. */
async function post(path, { body, cursor } = {}) {
  const headers = new Headers({ "Content-Type": "application/json" });
  // A token that no header can carry is as good as none: the server says so.
  if (/^[\x21-\x7e]+$/.test(kept.token)) headers.set("Authorization", `Bearer ${kept.token}`);
  if (cursor) headers.set("Last-Event-ID", cursor);
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }).catch(() => {
    throw new Refusal(0, words.unreachable);
  });
  if (response.ok) return response;
  const { status } = response;
  const { message } = await response.json().catch(() => ({}));
  // Without a token it is the host who refuses, and only the host knows what to do.
  const ours = status === 401 && !headers.has("Authorization") ? "" : words.refusals[status];
  throw new Refusal(status, ours || message || words.refused(status));
}

/** The events in a stream, as `{id, data}`. A stream that breaks or falls silent simply ends. */
async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const silence = setTimeout(() => reader.cancel(), LONGEST_SILENCE);
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    clearTimeout(silence);
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield parseEvent(block);
  }
}

/** Read one block; our server writes each line as `name: value`. */
function parseEvent(block) {
  const fields = block.split("\n").map((line) => line.split(/: (.*)/s, 2));
  return { id: "", data: "", ...Object.fromEntries(fields) };
}

/** Ask a turn's question, or continue where its answer was cut off. */
async function* open(turn) {
  renewToken();
  if (!kept.turns.includes(turn)) {
    turn.ended = true; // another token's
    return;
  }
  const response = await (turn.cursor ? post(COMPLETION, { cursor: turn.cursor }) : send(turn));
  if (response.status === 204) turn.ended = true;
  else yield* readEvents(response.body);
}

/** Send a turn's question: in its conversation, or in a new one when the server has lost that. */
async function send(turn) {
  const body = { chat_id: CHAT, question: turn.question };
  const session = kept.turns.findLast(({ session }) => session)?.session;
  try {
    return await post(COMPLETION, { body: { ...body, session_id: session } });
  } catch (error) {
    if (error.status !== 404 || !session || !kept.turns.includes(turn)) throw error;
  }
  turn.restarted = true;
  begin([turn]);
  return post(COMPLETION, { body });
}

/** Put one event into its turn. */
function take(turn, { id, data }) {
  const begins = id && !turn.cursor;
  turn.cursor = id || turn.cursor;
  if (begins) keep();
  if (begins && turn.stopped) cancel(turn);
  if (!data) return;
  const frame = JSON.parse(data);
  if (frame.data === true) turn.ended = true;
  else if (frame.code !== 0) {
    turn.error = frame.message;
    turn.refused = REFUSALS_FOR_GOOD.includes(frame.code);
  } else {
    const { answer, replace, reference, session_id } = frame.data;
    turn.text = replace ? answer : turn.text + answer;
    turn.passages = reference.chunks ?? turn.passages;
    turn.session = session_id;
  }
}

/** Fill a turn to its end, across cuts; `changed` is called after each change. Throws a Refusal. */
async function fill(turn, changed) {
  for (let failures = 0; !turn.ended; ) {
    try {
      for await (const event of open(turn)) {
        if (event.data) failures = 0;
        turn.reconnecting = false;
        take(turn, event);
        changed();
      }
    } catch (error) {
      if (!turn.cursor || !error.passing) throw error;
    }
    if (turn.ended) return;
    if (!turn.cursor || failures === RECONNECT_DELAYS.length) throw new Refusal(0, words.unreachable);
    turn.reconnecting = true;
    changed();
    const delay = RECONNECT_DELAYS[failures++] * (0.5 + Math.random());
    await new Promise((resolve) => setTimeout(resolve, delay));
  }
}

// ---- text to elements ---------------------------------------------------------------------------------------

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function fromTemplate(id) {
  const made = document.getElementById(id).content.firstElementChild.cloneNode(true);
  fillIn(made);
  return made;
}

function fillIn(root) {
  for (const labelled of root.querySelectorAll("[data-word]")) labelled.textContent = words[labelled.dataset.word];
}

/** Which passages a text cites, in the order in which it does; a citation's number is its place in here. */
function cited(text) {
  return [...new Set(Array.from(text.matchAll(CITATION), ({ groups }) => Number(groups.index)))];
}

/** A text as paragraphs, tables and fenced code. Text that is added later changes the last block only. */
function blocks(text) {
  const parts = text.split(/^ *```.*\n?/m);
  const all = parts.flatMap((part, index) => {
    if (index % 2 === 1) return [{ name: "pre", text: part.trimEnd() }];
    return part.split(/\n\s*\n/).flatMap(paragraphOrTables);
  });
  return all.filter((block) => block.text);
}

function paragraphOrTables(text) {
  return text.trim().split(TABLE).map((part, index) => ({ name: index % 2 ? "table" : "p", text: part.trim() }));
}

function drawBlock({ name, text }, order) {
  const block = document.createElement(name);
  if (name === "pre") block.textContent = text;
  else if (name === "table") fillTable(block, text.split("\n"), order);
  else block.append(...inline(text, order));
  return block;
}

function fillTable(table, [head, , ...rows], order) {
  table.createTHead().append(drawRow("th", head, order));
  table.createTBody().append(...rows.map((row) => drawRow("td", row, order)));
}

function drawRow(name, line, order) {
  const row = document.createElement("tr");
  const cells = line.trim().replace(/^\||(?<!\\)\|$/g, "").split(CELL_BORDER);
  for (const text of cells) {
    const cell = document.createElement(name);
    cell.append(...inline(text.trim().replaceAll("\\|", "|"), order));
    row.append(cell);
  }
  return row;
}

/** Text with its `code` marked and, when their order is given, its citations as buttons. */
function* inline(text, order) {
  let end = 0;
  for (const { 0: found, index, groups } of text.matchAll(order ? CITATION_OR_CODE : CODE)) {
    const before = text.slice(end, index);
    if (groups.code) yield* [before, element("code", "", groups.code)];
    else yield* [before.replace(/ $/, NO_BREAK), citation(order.indexOf(Number(groups.index)) + 1)];
    end = index + found.length;
  }
  yield text.slice(end);
}

function citation(number) {
  const button = element("button", "citation", String(number));
  button.type = "button";
  button.ariaLabel = words.source(number);
  button.disabled = true; // until its source is there
  return button;
}

function drawSource(number, passage) {
  const source = fromTemplate("source");
  source.querySelector(".number").textContent = number;
  source.querySelector(".name").textContent = passage.document_name;
  const { headings = "", text = passage.content } = passage.content.match(HEADINGS)?.groups ?? {};
  source.querySelector(".headings").textContent = headings;
  source.querySelector(".match").textContent = words.match(Math.round(100 * passage.similarity));
  source.querySelector("blockquote").append(...blocks(text).map((block) => drawBlock(block)));
  return source;
}

/** Show an element with this text inside, or hide it when there is none. */
function show(shown, text, inner = shown) {
  inner.textContent = text;
  shown.hidden = !text;
}

/** A turn on the page. */
class TurnView {
  constructor(turn) {
    this.turn = turn;
    this.element = fromTemplate("turn");
    this.answer = this.part(".answer");
    this.drawn = ""; // the text that `answer` shows
    this.sources = []; // the elements of the cited passages, by their number less one
    this.waiting = false;
    this.part(".asked").textContent = turn.question;
    this.part(".retry").addEventListener("click", () => answer(this));
    this.answer.addEventListener("click", ({ target }) => {
      if (target.matches(".citation")) this.openSource(Number(target.textContent));
    });
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  /** Draw with the browser's next frame, however many events come before it. */
  drawSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.waiting = false;
    const { text, passages, error, refused, restarted, stopped, reconnecting } = this.turn;
    const growing = current === this;
    const following = scroller.scrollHeight - scroller.scrollTop - innerHeight < NEAR_THE_END;
    this.element.ariaBusy = String(growing);
    this.drawText(growing ? text.replace(HALF_A_CITATION, "") : text);
    this.drawSources(growing ? [] : passages);
    const note = growing ? reconnecting && words.reconnecting : stopped && words.stopped;
    show(this.part(".note"), note || (restarted && words.restarted) || "");
    show(this.part(".failure"), growing ? "" : error, this.part(".failure span"));
    this.part(".retry").hidden = refused;
    if (following) scroller.scrollTop = scroller.scrollHeight;
  }

  /** Only the last block is drawn again when the text has grown, so that a reader can select what is above. */
  drawText(text) {
    const intact = text.startsWith(this.drawn) ? Math.max(0, this.answer.childElementCount - 1) : 0;
    while (this.answer.childElementCount > intact) this.answer.lastElementChild.remove();
    const order = cited(text);
    for (const block of blocks(text).slice(intact)) this.answer.append(drawBlock(block, order));
    this.drawn = text;
  }

  /** The cited passages; when a whole answer cites none, all that were found for it. */
  drawSources(passages) {
    const order = cited(this.turn.text);
    const indexes = order.length || this.turn.error ? order : [...passages.keys()];
    this.sources = indexes.map((index, place) => passages[index] && drawSource(place + 1, passages[index]));
    const there = this.sources.filter(Boolean);
    this.part("ol").replaceChildren(...there);
    const heading = order.length ? words.sources : words.found;
    show(this.part(".sources"), there.length ? heading : "", this.part(".sources h3"));
    for (const button of this.answer.querySelectorAll(".citation")) {
      button.disabled = !this.sources[button.textContent - 1];
    }
  }

  openSource(number) {
    const details = this.sources[number - 1].querySelector("details");
    details.open = true;
    details.scrollIntoView({ block: "nearest" });
    details.querySelector("summary").focus({ preventScroll: true });
  }
}

// ---- the page -----------------------------------------------------------------------------------------------

const scroller = document.scrollingElement;
const [conversation, composer, question, ask, stop, status, signIn, token] = [
  "conversation", "composer", "question", "ask", "stop", "status", "sign-in", "token",
].map((id) => document.getElementById(id));
let latest = null; // the view of the last turn
let current = null; // the view whose answer is growing

function setCurrent(view) {
  current = view;
  ask.hidden = Boolean(view);
  stop.hidden = !view;
  stop.disabled = Boolean(view?.turn.stopped);
}

/** Begin a new conversation, with these turns of the last ones on the page. */
function begin(turns = []) {
  kept.turns = turns;
  keep();
  const shown = [...conversation.querySelectorAll(".turn")];
  for (const gone of shown.slice(0, shown.length - turns.length)) gone.remove();
  if (turns.length) return;
  latest = null;
  setCurrent(null);
}

function addTurn(turn) {
  latest = new TurnView(turn);
  conversation.append(latest.element);
  latest.draw();
  return latest;
}

/** Get a turn's answer: go on where it was cut off, or ask (again). */
async function answer(view) {
  const { turn } = view;
  Object.assign(turn, turn.cursor ? { error: "" } : NEW_TURN);
  setCurrent(view);
  view.draw();
  keep();
  status.textContent = words.answering;
  try {
    await fill(turn, () => view.drawSoon());
    turn.cursor = "";
  } catch (error) {
    fail(turn, error);
  } finally {
    turn.reconnecting = false;
    if (current === view) leave(turn);
    view.draw();
    keep();
  }
}

/** Put the focus where the next question goes; on a touch screen that would raise a keyboard over the answer. */
function focusQuestion() {
  if (matchMedia("(hover: hover)").matches) question.focus();
  else question.blur();
}

function leave(turn) {
  setCurrent(null);
  status.textContent = turn.error || (turn.stopped ? words.stopped : words.answered);
}

function fail(turn, error) {
  turn.error = error.message;
  turn.refused = REFUSALS_FOR_GOOD.includes(error.status);
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 401) {
    askForToken(turn.error);
  } else if (!error.passing) {
    turn.cursor = "";
  }
}

/** Stop a turn's answer; before its run is known, `take` will. */
async function cancel(turn) {
  turn.stopped = true;
  if (!turn.cursor) return;
  const [run] = turn.cursor.split(":");
  await post(`api/v1/runs/${run}/cancel`).catch(() => {
    turn.stopped = false;
  });
  stop.disabled = Boolean(current?.turn.stopped);
}

function askForToken(message) {
  document.getElementById("sign-in-more").textContent = message;
  signIn.showModal();
}

function restore() {
  for (const turn of kept.turns) addTurn(turn);
  if (!latest || latest.turn.ended) return;
  if (latest.turn.cursor) answer(latest);
  else latest.turn.error ||= words.unsent;
  latest.draw();
  scroller.scrollTop = scroller.scrollHeight;
}

signIn.addEventListener("submit", () => {
  changeToken(token.value.trim());
  token.value = "";
  answer(latest);
});

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  focusQuestion();
  const text = question.value.trim();
  if (text && current) return;
  question.value = "";
  if (!text) return;
  const turn = { question: text, ...NEW_TURN };
  kept.turns.push(turn);
  answer(addTurn(turn));
  scroller.scrollTop = scroller.scrollHeight;
});

question.addEventListener("keydown", (event) => {
  // While an input method composes, Enter chooses a word; 229 is what Safari says then.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  composer.requestSubmit();
});

stop.addEventListener("click", () => {
  focusQuestion();
  stop.disabled = true;
  cancel(current.turn);
});

document.getElementById("new").addEventListener("click", () => {
  if (current) cancel(current.turn);
  begin();
  focusQuestion();
});

addEventListener("hashchange", takeToken);
addEventListener("storage", () => renewToken());
addEventListener("pagehide", keep);

document.documentElement.lang = chinese ? "zh-CN" : "en";
fillIn(document);
question.placeholder = words.placeholder;
question.value = kept.draft;
takeToken();
renewToken();
restore();
