"""Trains a small PyTorch model on the batches of a replay server. Usage: train.py URL"""

import sys

import torch
from torch import nn
from perennial.torch import ReplayDataset, ReplayLoader


class Model(nn.Module):
    def __init__(self, width=64, heads=4, length=256):
        super().__init__()
        self.heads = heads
        self.token, self.place = nn.Embedding(258, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 258)

    def forward(self, tokens, positions):
        document = (positions == 0).cumsum(1)  # attention stays inside a document
        seen = (document[:, :, None] == document[:, None, :]).tril().repeat_interleave(self.heads, 0)
        return self.head(self.body(self.token(tokens) + self.place(positions), mask=~seen))


torch.manual_seed(1)
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
loader = ReplayLoader(ReplayDataset(sys.argv[1], job="example", stop=60), num_workers=2)
losses = []
for batch in loader:
    logits = model(batch["tokens"], batch["positions"])
    loss = nn.functional.cross_entropy(logits[batch["mask"]], batch["targets"][batch["mask"]])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if batch["step"] % 20 == 19:
        print(f"step {batch['step']}: {batch['replayed'].sum()} of {len(batch['rows'])} rows are replayed")
print("the loss fell by more than 2 nats a byte:", losses[0] - losses[-1] > 2)
print("a checkpoint holds", loader.state_dict())
