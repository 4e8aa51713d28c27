// What the decoder is told: the model's shapes and weights, and a step. `decoder.py` writes the same structs.
//
// Of several ranks each has its share of heads, of the MLP's columns and of the vocabulary. Weights lie in panels of PANEL columns (see packing.py).

#pragma once

#include <cstdint>

namespace drafthouse {

constexpr int PANEL = 64;

enum Kind : int32_t { F32 = 0, BF16 = 1, F64 = 2, INT8 = 3, F16 = 4 };  // INT8: keys and values are bfloat16
enum Activation : int32_t { SILU = 0, GELU_TANH = 1 };

struct Linear {
  const void* panels;
  const void* bias;     // in the compute type, or null
  int32_t inner, outer; // outer counts real columns; panels are padded
};

struct Layer {
  Linear qkv, out, gate_up, down;
  const void *attn_in, *attn_out, *mlp_in, *mlp_out;  // norm weights in the compute type, or null
  const void *q_norm, *k_norm;
  const void *cos, *sin;  // [context, rotary / 2]
  int64_t window;         // 0: none
};

struct Model {
  int32_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, rotary;
  int32_t kind, activation, tied, norm_over_all_heads;
  double eps, scaling, attention_softcap, final_softcap, embedding_scale, residual_scale, logit_scale;
  const Layer* layer;
  const void* embedding;  // if not tied: rows of this rank's tokens, or for INT8 panels
  Linear head;            // outer: this rank's tokens
  const void* final_norm;
  void* cache;  // [layers, 2, kv_heads, slots, head_dim]
  int64_t slots;
  int32_t rank, ranks;  // heads, kv_heads and intermediate are this rank's; vocab is of all ranks
  void (*gather)(void* parts, int64_t bytes);  // parts [ranks, bytes]: this rank's is there, the others' come
};

struct Step {
  int32_t tokens, outputs, states;
  const int32_t *token, *position, *write_slot;
  const int32_t* const* table;       // each row's slot table: entry e of its sequence lies in slot table[row][e]
  const int32_t *prefix, *sinks, *skipped;
  const int32_t *line_start, *line;  // entries on each row's line, [tokens + 1] and flat
  const int32_t *output, *state;     // rows whose logits, and whose last hidden states are wanted
  const int32_t *input_of;           // each row's place in inputs, or -1
  const void* inputs;                // [.., hidden] in the compute type: added to embeddings, of one rank only
  void* logits;                      // [outputs, vocab] in the compute type
  void* last_states;                 // [states, hidden] in the compute type, after the final norm
};

}  // namespace drafthouse
