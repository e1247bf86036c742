"""The ranks of a distributed job: what they tell rank 0, and how what all of them saw becomes that of the whole job."""
