from __future__ import annotations
import pytest, torch
from conftest import *
R=0
@pytest.mark.parametrize("mode", ["copy","route"])
def test_x(model, tokenizer, trigger, prompts, mode):
    r=trigger.open_id
    plan={(0,3):r,(0,9):r,(0,17):r,(1,6):r,(3,0):r,(3,9):r}
    import time
    t=time.time()
    out=decode(model,tokenizer,prompts,Reattention(mode=mode),plan)
    print(time.time()-t)
    for b,p in enumerate(prompts):
        print(logit_gap(out,b,full_pass(model,out.slots[b],feature_table(model,p)).logits[0]))
        print(out.sequences[b,-24:].tolist())
        print(out.reflections[b], len(out.slots[b]))
    s=out.slots[0]
    with eager(model):
        at=full_pass(model,s,feature_table(model,prompts[0]),output_attentions=True).attentions
    print([ (a[0,:,-1]*len(s)).max().item() for a in at], out.logits[5].std())
