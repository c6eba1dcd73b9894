"""Click-through prediction: recommender networks under the learning rules and the trainer of the rest."""
