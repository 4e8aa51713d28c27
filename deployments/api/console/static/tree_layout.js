// Where the nodes of a token tree stand: a column for each depth, a row for each leaf; the accepted path runs straight along the top.

export const ROOT = -1;
export const BONUS = -2; // the token that the target chose at the end of the accepted path

// Of a step with at most `most` nodes: {nodes: [{index, parent, depth, row}], rows, depths, hidden}. Parents stand before children.
export function layout(step, most) {
  const kept = keep(step, most);
  const accepted = new Set(step.accepted);
  const children = new Map([[ROOT, []]]);
  for (const index of kept) {
    children.set(index, []);
    children.get(step.nodes[index].parent)?.push(index);
  }
  const end = step.accepted.at(-1) ?? ROOT;
  if (step.tokens.length > step.accepted.length) children.get(end).push(BONUS);
  const rank = (index) => (accepted.has(index) ? 2 : index === BONUS ? 1.5 : step.nodes[index].confidence);
  for (const list of children.values()) list.sort((a, b) => rank(b) - rank(a));
  const nodes = [];
  let rows = 0, depths = 0;
  const place = (index, parent, depth) => {
    const node = { index, parent, depth, row: 0 };
    nodes.push(node);
    depths = Math.max(depths, depth);
    const below = children.get(index) ?? [];
    if (!below.length) rows += 1;
    node.row = below.length ? place(below[0], index, depth + 1) : rows - 1;
    for (const child of below.slice(1)) place(child, index, depth + 1);
    return node.row;
  };
  place(ROOT, null, 0);
  return { nodes, rows, depths, hidden: step.nodes.length - kept.length + step.nodes_left_out };
}

// The accepted nodes, those verified, then the likeliest; each with its parents, in order.
function keep(step, most) {
  const order = step.nodes.map((_, index) => index);
  const accepted = new Set(step.accepted);
  const worth = (index) => (accepted.has(index) ? 3 : step.nodes[index].verified ? 1 : 0) + step.nodes[index].confidence;
  order.sort((a, b) => worth(b) - worth(a) || a - b);
  const kept = new Set();
  for (const index of order) {
    if (kept.size >= most) break;
    for (let at = index; at !== ROOT && !kept.has(at); at = step.nodes[at].parent) kept.add(at);
  }
  return [...kept].sort((a, b) => a - b);
}
