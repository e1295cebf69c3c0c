"""How true are the scores: retraining, measures against it, methods side by side, certificates.

retraining   tasks.py places.py pieces.py modules.py   what is trained on which documents in which order
             subsets.py bank.py                        training sets, and the losses of models trained on them
             retrain.py workers.py worker.py           filling a bank, in several processes
             recipes.py                                how a model was trained, read from files
             patch.py                                  one training step on one document
measures     lds.py leave_out.py retrieval.py mislabel.py datamodel.py      from arrays to readings
             bootstrap.py ceiling.py correlation.py tables.py               intervals, noise, ranks
methods      methods.py scorers.py rankings.py imports.py costs.py          what is compared, and what it costs
the lab      lab_settings.py experiments.py evaluate.py expected.py         one evaluation
             certificate.py tune.py                                         what comes of it
"""
